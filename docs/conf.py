"""Configuration of the documentation site (`make site`).

The source folder is the project, so that README, docs and notebooks link to one another as they do on GitHub. Pages are
plain Markdown; `_toc.yml` orders them. Nothing is fetched, neither to build the site nor to read it: formulas become
MathML, with a font from a package, and styles and scripts are those of the theme.
"""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

import ziamath
from docutils import nodes
from fontTools import subset
from math_core import LatexToMathML
from sphinx.util import logging as sphinx_logging
from sphinx.util.nodes import make_refnode

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from diffusion_lab.version import __version__  # noqa: E402

project = "diffusion_lab"
author = "The diffusion_lab authors"
project_copyright = "The diffusion_lab authors"
release = version = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_external_toc", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = [
    *("docs/**.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md"),
    *("notebooks/*.ipynb", "diffusion_lab/data/EMOJI_LICENSE.md"),
]
exclude_patterns = [".*", "build", "outputs", "data", "wandb", "tests", "**/__pycache__"]
external_toc_path = "docs/_toc.yml"

myst_enable_extensions = ["dollarmath", "html_image"]
myst_heading_anchors = 4  # those of GitHub
nb_execution_mode = "off"  # notebooks are shown with the results that they contain
default_role = "code"
highlight_language = "bash"  # blocks without a language are commands
suppress_warnings = ["myst.header"]  # a page may leave out a level of headings
copybutton_exclude = ".linenos, .gp, .go"
copybutton_prompt_text = "$ "

html_theme = "furo"
html_title = "diffusion_lab"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
html_math_renderer = "mathml"

autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"show-inheritance": True}
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_rtype = False
autodoc_inherit_docstrings = False
napoleon_use_ivar = True
nitpicky = True

ARRAY_TYPES = ("Images", "Pixels", "ImagePixels", "PerImage", "PerStep", "Scalar", "Times", "Labels")
"""Names of diffusion_lab.shapes, shown instead of the annotations that they stand for."""

FUNCTION_TYPES = ("Denoise", "Draw", "LabelledDenoise", "SpacingName", "Weights")

INTERNAL = {
    *(
        "Augmentation",
        "Cost",
        "FittedNormal",
        "ForeignAverage",
        "KernelSums",
        "ModelSettings",
        "ModelT",
        "Nearest",
        "Number",
    ),
    *("OutputSettings", "Remarks", "ResumePlan", "SampleEvaluation", "Section", "SkippedImage", "StopRequest"),
    *("UnseenDistances", "WatchedMetric"),
}
"""Types in public signatures that have no entry in the reference."""

autodoc_type_aliases = {name: name for name in (*ARRAY_TYPES, *FUNCTION_TYPES)}


LOADED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*\bsrc=["']?((?:https?:)?//[^"' >]+)"""
    r"""|<link\b(?![^>]*rel=["']?(?:canonical|license))[^>]*\bhref=["']?((?:https?:)?//[^"' >]+)"""
    r"""|(?:url\(|@import )["']?((?:https?:)?//[^"')]+)"""
)
"""Addresses of other sites from which a page would load something."""

logger = sphinx_logging.getLogger(__name__)

MATH_CHARACTERS = (
    *((0x20, 0x7E), (0xA0, 0xFF), (0x2C6, 0x2DC), (0x300, 0x338), (0x391, 0x3F5), (0x2010, 0x2057), (0x210E, 0x2118)),
    *((0x2190, 0x21D5), (0x2200, 0x22FF), (0x2308, 0x230B), (0x27E8, 0x27E9), (0x1D434, 0x1D467), (0x1D49C, 0x1D4CF)),
    (0x1D6E2, 0x1D71B),
)
"""Ranges of characters in the font of formulas: Latin, Greek, their slanted and script forms, signs."""


def link_types(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Link a type in a signature to its place in the reference, also by the name alone or by that of its own module.

    Types of other libraries are plain text: links to them would need their inventories from the network.
    """
    if node.get("refdomain") != "py":
        return None
    target: str = node["reftarget"]
    objects = env.domains.python_domain.objects
    last = target.rpartition(".")[2]
    found = [name for name in objects if name.rpartition(".")[2] == last and _is_same(name, target)]
    if found:
        name = target if target in found else min(found, key=len)
        place = objects[name]
        return make_refnode(app.builder, node["refdoc"], place.docname, place.node_id, content, name)
    return None if target.startswith("diffusion_lab.") and last not in INTERNAL else content


def _is_same(name: str, target: str) -> bool:
    return "." not in target or (target.startswith("diffusion_lab.") and name.split(".")[1] == target.split(".")[1])


def shorten_annotations(app: Any, what: str, name: str, obj: Any, options: Any, signature: str, result: str) -> Any:
    """Leave out the bounds in signatures, which docs/configuration.md lists, and private defaults."""
    return tuple(part and re.sub(r"Annotated\[([^,]+), [^]]*\]", r"\1", part) for part in (signature, result))


def keep_colons(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Begin descriptions of attributes with an empty comment: napoleon takes what precedes a colon there for a type."""
    if what in ("attribute", "data", "property"):
        lines[:0] = ["..", ""]


def unwrap_images(app: Any, page: str, source: list[str]) -> None:
    """Remove the paragraph around images in HTML, inside which they would not be found."""
    source[0] = re.sub(r"^<p>\n((?: *<img .*>\n)+)</p>$", r"\1", source[0], flags=re.MULTILINE)


def write_mathml(self: Any, node: Any) -> None:
    """Write a formula as MathML, which browsers display without a script."""
    is_block = isinstance(node, nodes.math_block)
    formula = LatexToMathML().convert_with_local_state(node.astext(), displaystyle=is_block)
    self.body.append(f'<div class="math">{formula}</div>' if is_block else formula)
    raise nodes.SkipNode


def write_font(app: Any, error: Exception | None) -> None:
    """Write the font of formulas next to the styles: STIX Two Math, without the scripts that no formula needs."""
    if error or app.builder.format != "html":
        return
    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it reports each table
    options = subset.Options(flavor="woff", layout_features=["ssty", "dtls", "flac"], notdef_outline=True)
    font = subset.load_font(Path(ziamath.__file__).parent / "fonts" / "STIXTwoMath-Regular.ttf", options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=[number for first, last in MATH_CHARACTERS for number in range(first, last + 1)])
    subsetter.subset(font)
    subset.save_font(font, Path(app.outdir) / "_static" / "math.woff", options)


def refuse_requests(app: Any, error: Exception | None) -> None:
    """Warn, which fails the build, about anything in the site that a browser would load from elsewhere."""
    for file in () if error else [*Path(app.outdir).rglob("*.html"), *Path(app.outdir).rglob("*.css")]:
        for address in LOADED.finditer(file.read_text(encoding="utf-8")):
            logger.warning("%s loads %s", file.relative_to(app.outdir), address[address.lastindex or 0])


def setup(app: Any) -> None:
    """Register the handlers above."""
    app.connect("source-read", unwrap_images)
    app.connect("missing-reference", link_types)
    app.connect("autodoc-process-signature", shorten_annotations)
    app.connect("autodoc-process-docstring", keep_colons, priority=100)
    app.connect("build-finished", write_font)
    app.connect("build-finished", refuse_requests)
    app.add_html_math_renderer("mathml", (write_mathml, None), (write_mathml, None))
