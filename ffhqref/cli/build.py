"""build-refs and its stages."""

from __future__ import annotations
