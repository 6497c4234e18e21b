"""The sentences in which a class' name is put: CLIP's, and LanguageBind's change of them for other modalities.

PHOTO are the 80 of CLIP's ImageNet notebook, ACTION the 28 of its data/prompts.md for Kinetics (both also in
OpenCLIP). LanguageBind (d_cls, t_cls, a_cls/zero_shot_metadata.py) says "depth photo" and "sound" for "photo"; for
thermal pictures it leaves "photo".
"""

from __future__ import annotations

from videollava.errors import InputError

__all__ = ["ACTION", "PHOTO", "templates_for"]

_THINGS = (
    "a bad photo of a {}.|a photo of many {}.|a sculpture of a {}.|a photo of the hard to see {}.|"
    "a low resolution photo of the {}.|a rendering of a {}.|graffiti of a {}.|a bad photo of the {}.|"
    "a cropped photo of the {}.|a tattoo of a {}.|the embroidered {}.|a photo of a hard to see {}.|"
    "a bright photo of a {}.|a photo of a clean {}.|a photo of a dirty {}.|a dark photo of the {}.|"
    "a drawing of a {}.|a photo of my {}.|the plastic {}.|a photo of the cool {}.|"
    "a close-up photo of a {}.|a black and white photo of the {}.|a painting of the {}.|a painting of a {}.|"
    "a pixelated photo of the {}.|a sculpture of the {}.|a bright photo of the {}.|a cropped photo of a {}.|"
    "a plastic {}.|a photo of the dirty {}.|a jpeg corrupted photo of a {}.|a blurry photo of the {}.|"
    "a photo of the {}.|a good photo of the {}.|a rendering of the {}.|a {} in a video game.|"
    "a photo of one {}.|a doodle of a {}.|a close-up photo of the {}.|a photo of a {}.|"
    "the origami {}.|the {} in a video game.|a sketch of a {}.|a doodle of the {}.|"
    "a origami {}.|a low resolution photo of a {}.|the toy {}.|a rendition of the {}.|"
    "a photo of the clean {}.|a photo of a large {}.|a rendition of a {}.|a photo of a nice {}.|"
    "a photo of a weird {}.|a blurry photo of a {}.|a cartoon {}.|art of a {}.|"
    "a sketch of the {}.|a embroidered {}.|a pixelated photo of a {}.|itap of the {}.|"
    "a jpeg corrupted photo of the {}.|a good photo of a {}.|a plushie {}.|a photo of the nice {}.|"
    "a photo of the small {}.|a photo of the weird {}.|the cartoon {}.|art of the {}.|"
    "a drawing of the {}.|a photo of the large {}.|a black and white photo of a {}.|the plushie {}.|"
    "a dark photo of a {}.|itap of a {}.|graffiti of the {}.|a toy {}.|"
    "itap of my {}.|a photo of a cool {}.|a photo of a small {}.|a tattoo of the {}."
)
PHOTO = tuple(_THINGS.split("|"))
_DOING = ("", "a person ", "a person using ", "a person doing ", "a person during ", "a person performing ")
ACTION = tuple(
    f"a {what} of {how}{{}}."
    for what in ("photo", "video", "example", "demonstration")
    for how in (*_DOING, "a person practicing ")
)
_WORDS = {"image": "photo", "thermal": "photo", "depth": "depth photo", "audio": "sound"}


def templates_for(kind: str) -> tuple[str, ...]:
    """The sentences for classes of a modality's media."""
    if kind == "video":
        return ACTION
    if kind not in _WORDS:
        raise InputError(f"{kind}: no modality; there are {', '.join((*_WORDS, 'video'))}")
    return tuple(template.replace("photo", _WORDS[kind]) for template in PHOTO)
