"""Writes tests/golden/entities.json: texts with HTML's character references, and
what Python's html.unescape makes of them."""

import html
import json
from pathlib import Path

TEXTS = [
    "", "plain", "&quot;x&quot;", "it&#39;s", "a &amp; b", "&lt;b&gt;", "&amp;quot;", "AT&T", "a & b", "&", "&;",
    "&#x27;&#X27;", "&#8217;&#x10d;", "caf&eacute;", "&nbsp;|", "&unknown;", "&#xZZ;", "&mdash;&hellip;", "č&quot;š",
    "&Ccaron;&ccaron;&scaron;&zcaron;", "&&quot;",
]
out = Path(__file__).parent.parent / "golden" / "entities.json"
out.write_text(json.dumps([[text, html.unescape(text)] for text in TEXTS], ensure_ascii=False) + "\n")
