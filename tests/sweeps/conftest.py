from __future__ import annotations

from tests.config.conftest import composed as composed
