"""Which of the judges that ship know the images of a model."""

from pathlib import Path

from marval_ray.embedded import assets_index
from marval_ray.evaluation.class_scores import ClassEvaluator
from marval_ray.evaluation.scene_scores import SceneEvaluator
from marval_ray.families.base import FamilyConfig

Files = tuple[Path, Path]
"""Classifier and reference statistics."""
CLOTHES = (assets_index.CLASSIFIER, assets_index.REFERENCE), (assets_index.CLASSIFIER_B, assets_index.REFERENCE_B)
SCENES = (assets_index.SCENE_CLASSIFIER, assets_index.SCENE_REFERENCE), (assets_index.SCENE_CLASSIFIER_B, assets_index.SCENE_REFERENCE_B)


def judges_for(config: FamilyConfig) -> tuple[Files, Files] | None:
    """Return the files of judges A and B: of clothes for a model of classes, of scenes for one that reads texts.

    None where the model's images have another size.
    """
    known, files = (SceneEvaluator, SCENES) if config.num_classes is None else (ClassEvaluator, CLOTHES)
    return files if config.image_size in known.SIDES else None
