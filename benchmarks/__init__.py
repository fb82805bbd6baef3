"""Commands that measure tinygpt beside its peers; what each of them says is in README.md."""
