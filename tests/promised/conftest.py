from __future__ import annotations

from tests.commands.conftest import image_folder as image_folder
