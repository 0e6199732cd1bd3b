"""OpenAI's protocol: bodies of requests, shapes of answers, and text out of token ids."""
