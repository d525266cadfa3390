from typing import Any

handlers: dict[str, Any]  # capsules
jaxlib: str  # the version whose headers it was compiled with
