"""What Schemathesis sends where the description says only `binary` or `uuid`, and as an owner: mostly what there is.

Pictures, and ids of samples, clusters, erasures and keys of the service that is asked (`OUBLI_TEST_HELD`, JSON). An id
may have gone by the time that it is sent.
"""

import json
import os
from typing import Any

import schemathesis
from hypothesis import strategies as st

from tests.integration.harness import digit_pictures
from tests.odd_files import SCENE, encoded

HELD = json.loads(os.environ["OUBLI_TEST_HELD"])
PICTURES = [picture.data for picture in digit_pictures(20)] + [
    encoded(SCENE, kind) for kind in ("JPEG", "WEBP", "TIFF")
]
pictures, ids = st.sampled_from(PICTURES), st.sampled_from(HELD["ids"])

schemathesis.openapi.format("binary", st.one_of(pictures, pictures, st.binary()))
schemathesis.openapi.format("uuid", st.one_of(ids, ids, st.uuids().map(str)))


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any]) -> dict[str, Any]:
    """Now and then an owner that has samples, in the place of one that was made up."""
    owner = (path_parameters or {}).get("owner")
    if isinstance(owner, str) and len(owner) % 2:
        path_parameters["owner"] = HELD["owners"][len(owner) // 2 % len(HELD["owners"])]
    return path_parameters
