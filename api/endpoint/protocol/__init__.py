"""OpenAI's protocol: bodies of requests, forms of answers, and the text of token ids."""
