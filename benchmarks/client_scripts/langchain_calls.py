"""LangChain's `ChatOpenAI` against an endpoint: base URL and model as arguments, one JSON object on standard output.

Runs in the clients' environment; nothing of this project is imported here.
"""

import asyncio
import json
import sys

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI

QUESTION = "Tom has 3 boxes of 12 pens and gives 7 pens away. How many are left?"


def main() -> None:
    """Invoke, stream, batch, a chain, and the asynchronous forms."""
    url, name = sys.argv[1:3]
    model = ChatOpenAI(model=name, base_url=url, api_key="none", temperature=0, max_tokens=48, max_retries=0)
    answer = model.invoke(QUESTION)
    chunks = list(model.stream(QUESTION))
    chain = ChatPromptTemplate.from_messages([("user", "{question}")]) | model | StrOutputParser()
    result = {
        "text": answer.content,
        "usage": answer.usage_metadata,
        "finish_reason": answer.response_metadata["finish_reason"],
        "num_chunks": len(chunks),
        "stream_as_whole": "".join(str(chunk.content) for chunk in chunks) == answer.content,
        "batch_as_whole": [each.content for each in model.batch([QUESTION] * 3)] == [answer.content] * 3,
        "chain_as_whole": chain.invoke({"question": QUESTION}) == answer.content,
        "async_as_whole": asyncio.run(model.ainvoke(QUESTION)).content == answer.content,
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
