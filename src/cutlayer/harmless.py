"""Text from elsewhere made safe to show: a terminal obeys none of it."""


def harmless(text: str) -> str:
    """`text` with every character that cannot be printed written out, as in \\x1b or \\u202e.

    Those are control characters and terminal escapes, line breaks, marks that turn the direction
    of writing round, and halves of surrogate pairs.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
