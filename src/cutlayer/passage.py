"""What a language model learns from: prompts with completions, conversations, or plain texts."""

from dataclasses import dataclass


def mended(text: str) -> str:
    """`text` with the replacement sign for halves of surrogate pairs, which a tokenizer refuses."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. role: system, user, assistant, or what the template knows."""

    role: str
    content: str


@dataclass(frozen=True)
class Passage:
    """One sample.

    prompt, completion: what is given and what is to be said; a plain text is a completion without
    a prompt. messages: a conversation in their place, whose assistant's turns are the completions.
    """

    prompt: str = ""
    completion: str = ""
    messages: tuple[Message, ...] = ()
