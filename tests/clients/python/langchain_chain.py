"""A LangChain retrieval chain under OpenInference, with LangChain's own offline models."""

from __future__ import annotations

import warnings

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.tools import tool
from langchain_core.vectorstores import InMemoryVectorStore
from openinference.instrumentation import using_attributes
from openinference.instrumentation.langchain import LangChainInstrumentor

from client import Run
from elaborate import elaborated
from otel_sdk import Traces

DOCUMENTS = (
    "Refunds are paid within five working days.",
    "A warranty lasts two years from delivery.",
    "Orders ship from the warehouse in Zürich.",
)


@tool
def lookup_order(order: str) -> str:
    """The state of an order."""
    return f"order {order} is on its way"


def run(run: Run) -> None:
    # The instrumentation calls a method that LangChain renamed: theirs to mend, and no news here.
    warnings.filterwarnings("ignore", message=r"Calling \.text\(\) as a method")
    sending = Traces(run)
    LangChainInstrumentor().instrument(tracer_provider=sending.provider)
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents(
        [Document(elaborated(text, page), metadata={"page": page}) for page, text in enumerate(DOCUMENTS)]
    )
    prompt = ChatPromptTemplate.from_messages([("system", "Answer from: {context}"), ("user", "{question}")])
    model = FakeListChatModel(responses=["Within five days.", "Two years.", "From Zürich."])
    chain = (
        {"context": store.as_retriever(search_kwargs={"k": 2}), "question": RunnablePassthrough()}
        | prompt
        | model
        | StrOutputParser()
    )
    for number in range(run.count):
        with using_attributes(
            session_id=f"session-{number % 5}", user_id=f"user-{number}", tags=["rag"], metadata={"feature": "help"}
        ):
            if number % 3 == 2:
                lookup_order.invoke({"order": str(number)})
            elif number % 2:
                for _ in chain.stream(elaborated(f"Question {number}?", number)):
                    pass
            else:
                chain.invoke(elaborated(f"Question {number}?", number))
    sending.finish()
