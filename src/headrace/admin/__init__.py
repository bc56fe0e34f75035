"""What those who operate a gateway ask of it: how it is, and that it does something."""

from __future__ import annotations

from headrace.admin.door import Admin, Misses, Operated, is_path

__all__ = ["Admin", "Misses", "Operated", "is_path"]
