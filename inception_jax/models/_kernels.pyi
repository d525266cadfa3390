from typing import Any

handlers: dict[str, Any]  # capsules
