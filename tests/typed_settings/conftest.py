from __future__ import annotations

from tests.config.conftest import changed as changed
from tests.config.conftest import default as default
