"""croissant.json: the dataset in the Croissant 1.1 vocabulary, with the Responsible-AI properties.

https://docs.mlcommons.org/croissant/docs/croissant-spec.html and .../croissant-rai-spec.html. `rai` has the
properties that NeurIPS 2026 asks of a dataset: limits, biases, personal data, uses, impact, synthetic data,
and from what and how it was made (`prov`, W3C's vocabulary of provenance).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ffhqref import __version__
from ffhqref.core import tables
from ffhqref.core.store import write_text
from ffhqref.report import card, views
from ffhqref.report.card import Curator, mapping_file
from ffhqref.report.facts import Facts

CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
CONTEXT: dict[str, Any] = {
    "@language": "en", "@vocab": "https://schema.org/", "arrayShape": "cr:arrayShape", "citeAs": "cr:citeAs",
    "column": "cr:column", "conformsTo": "dct:conformsTo", "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/", "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"}, "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"}, "extract": "cr:extract", "field": "cr:field",
    "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty", "fileSet": "cr:fileSet",
    "format": "cr:format", "includes": "cr:includes", "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath", "key": "cr:key", "md5": "cr:md5",
    "name": {"@container": "@language"}, "parentField": "cr:parentField", "path": "cr:path",
    "prov": "http://www.w3.org/ns/prov#", "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet", "references": "cr:references", "regex": "cr:regex",
    "repeated": "cr:repeated", "replace": "cr:replace", "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/", "separator": "cr:separator", "source": "cr:source",
    "subField": "cr:subField", "transform": "cr:transform",
}  # fmt: skip


def document(known: Facts, curator: Curator) -> dict[str, Any]:
    """The whole of croissant.json; what the curator has not said is left out, or said to be missing."""
    found: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": re.sub(r"[^\w. -]", "_", curator.name.strip() or known.title),
        "description": " ".join(views.summary(known)),
        "version": "1.0.0",
        "license": curator.said("licence"),
        "url": curator.said("url"),
        "keywords": ["faces", "face restoration", "reference-based"],
        "isLiveDataset": False,
        **_responsible(known, curator),
        "distribution": [_file(known, split) for split in _splits(known)],
        "recordSet": [_records(split) for split in _splits(known)],
    }
    creators = [name.strip() for name in curator.creators.split(";") if name.strip()]
    if creators:
        found["creator"] = [{"@type": "sc:Person", "name": name} for name in creators]
    if curator.published.strip():
        found["datePublished"] = curator.published.strip()
    if curator.citation.strip():
        found["citeAs"] = curator.citation.strip()
    return found


def _splits(known: Facts) -> list[str]:
    return [split for split, rows in known.mapping.items() if rows]


def _responsible(known: Facts, curator: Curator) -> dict[str, Any]:
    """The Responsible-AI properties and the provenance."""
    synthetic = {"yes": True, "no": False}.get(curator.synthetic.strip().lower(), card.TO_COMPLETE)
    personal = f"Faces of people. Consent: {curator.said('consent')}. {card.RIGHTS}"
    how = " ".join(card.built(known))
    return {
        "rai:dataCollection": curator.said("collection"),
        "rai:dataLimitations": list(card.LIMITS),
        "rai:dataBiases": curator.said("biases"),
        "rai:personalSensitiveInformation": personal,
        "rai:dataUseCases": [card.USES, *(f"Not for: {one}" for one in card.FORBIDDEN)],
        "rai:dataSocialImpact": curator.said("impact"),
        "rai:hasSyntheticData": synthetic,
        "rai:dataPreprocessingProtocol": how,
        "rai:dataReleaseMaintenancePlan": f"{curator.said('maintenance')} ({curator.said('contact')})",
        "prov:wasDerivedFrom": curator.said("sources"),
        "prov:wasGeneratedBy": f"ffhqref {__version__}: {how}",
    }


def _file(known: Facts, split: str) -> dict[str, Any]:
    name = mapping_file(split)
    return {
        "@type": "cr:FileObject",
        "@id": f"{split}_references.csv",
        "name": f"{split}_references.csv",
        "description": f"References of each {split} target, best first.",
        "contentUrl": name,
        "encodingFormat": "text/csv",
        "sha256": known.receipts["references"].outputs[name],
    }


def _records(split: str) -> dict[str, Any]:
    columns = {
        tables.GT_IMAGE: "The target: the clean picture.",
        **({} if split == "train" else {tables.LQ_IMAGE: "The file of its low-quality picture."}),
        tables.REF_IMAGE: "A list of names in brackets: pictures of the same person, best first.",
    }
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "key": {"@id": f"{split}/{tables.GT_IMAGE}"},
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{split}/{column}",
                "name": f"{split}/{column}",
                "description": what,
                "dataType": "sc:Text",
                "source": {"fileObject": {"@id": f"{split}_references.csv"}, "extract": {"column": column}},
            }
            for column, what in columns.items()
        ],
    }


def write_croissant(known: Facts, curator: Curator) -> Path:
    """Write OUT/croissant.json."""
    path = known.out / "croissant.json"
    write_text(path, json.dumps(document(known, curator), indent=1) + "\n")
    return path
