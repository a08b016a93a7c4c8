"""What a served model may read for a request: nothing of the network unless a domain is named, files of one folder."""

from pathlib import Path
from typing import Any
from urllib.request import url2pathname

from PIL import Image
from vllm.exceptions import VLLMNotFoundError
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY, MediaConnector

from data_tools.media.stills import FORMATS

NAME = "camreasoner"  # by which VLLM_MEDIA_CONNECTOR chooses it


@MEDIA_CONNECTOR_REGISTRY.register(NAME)
class NamedMedia(MediaConnector):
    """vLLM 0.24.0, multimodal/media/connector.py:275: without allowed domains its own fetches any address, that of this
    machine and of its network too; a file that is missing, or lies elsewhere, is answered with its path.
    """

    def _assert_url_in_allowed_media_domains(self, url_spec: Any) -> None:
        if url_spec.hostname not in self.allowed_media_domains:
            raise ValueError("this server fetches nothing from there: send the clip itself, as a data: address")

    def _load_file_url(self, url_spec: Any, media_io: Any) -> Any:
        root = self.allowed_local_media_path
        if root is None:
            raise ValueError("this server reads no files: send the clip itself, as a data: address")
        path = Path(url2pathname((url_spec.netloc or "") + (url_spec.path or ""))).resolve()
        if root.resolve() not in path.parents:
            raise ValueError("this file is not below the folder whose clips requests may name")
        if not path.is_file():
            raise VLLMNotFoundError("no such file below the folder whose clips requests may name")
        return media_io.load_file(path)


def take_usual_pictures_only() -> None:
    """Have Pillow take a request's picture for one of the usual formats, whatever it holds: of its others some start
    programs (EPS: Ghostscript).
    """
    Image.init()  # all that it knows
    Image.ID[:] = FORMATS
