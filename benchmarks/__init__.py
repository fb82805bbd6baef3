"""Commands that measure tinygpt against other projects; README.md describes each one."""
