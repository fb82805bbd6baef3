"""The web server of `tinygpt.serve`: runs, comparisons, a playground, data, and OpenAI's API."""
