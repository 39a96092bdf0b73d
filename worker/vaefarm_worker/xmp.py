"""The XMP packet of a picture: what it shows, what made it, and its metadata in full as JSON."""

import re
from typing import Final
from xml.sax.saxutils import escape

#: Of our own properties; it names nothing that could be fetched.
NAMESPACE: Final[str] = "urn:vaefarm:metadata:1"

#: What XML 1.0 forbids, also escaped.
FORBIDDEN: Final[re.Pattern[str]] = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")

PACKET: Final[str] = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:vaefarm="{namespace}">{properties}</rdf:Description>
</rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


def packet(creator: str, description: str, metadata_json: str) -> str:
    """A packet; what is empty is left out of it."""
    properties = f"<xmp:CreatorTool>{_text(creator)}</xmp:CreatorTool>"
    if description:
        # With its language, as the standard has it; SD.Next takes a bare rdf:li for a tag.
        said = f'<rdf:li xml:lang="x-default">{_text(description)}</rdf:li>'
        properties += f"<dc:description><rdf:Alt>{said}</rdf:Alt></dc:description>"
    if metadata_json:
        properties += f"<vaefarm:metadata>{_text(metadata_json)}</vaefarm:metadata>"
    return PACKET.format(namespace=NAMESPACE, properties=properties)


def _text(text: str) -> str:
    # A parser makes a line feed of a carriage return that is not escaped.
    return escape(FORBIDDEN.sub("\ufffd", text), {"\r": "&#13;"})
