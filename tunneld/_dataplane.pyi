# The C core as cffi makes it; csrc/api.h is its description. Only dataplane/engine.py imports it.
from typing import Any

ffi: Any
lib: Any
