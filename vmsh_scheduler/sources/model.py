"""What every model of a configuration file has in common."""

import os

from pydantic import BaseModel, ConfigDict

# plugins of pydantic, which any package beside ours may bring, are shown each value that is validated, and some send
# what they see away; only to look for them costs 10 ms of every command
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"


class Model(BaseModel):
    """Unknown keys, and text where a number is wanted, are refused; no error holds a value.

    Built when a file is first held against it, nested models as a part of it: 10 ms less of every command."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True, defer_build=True)
