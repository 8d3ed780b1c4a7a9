"""The server section of a job: what the server keeps."""

from typing import Annotated

from pydantic import Field

from cutlayer.settings.section import Section


class ServerSettings(Section):
    """What the server keeps of what devices send."""

    cache_bytes: Annotated[int, Field(ge=0, le=2**50)] = 2**30
    """Bytes of activations, as they came, that the server holds in memory and in the run folder, so
    that devices need not send a sample again; what finds no room is sent each time.
    """
