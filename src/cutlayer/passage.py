"""What a language model learns from: prompts with completions, conversations, or plain texts."""

from dataclasses import dataclass


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
