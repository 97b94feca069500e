"""Latents that do not fit the model are refused from their metadata and labels, before anything starts."""


import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small import MODEL, write_random_latents

from marval_ray.files.encoding import CODEC, ENCODING, Encoding
from marval_ray.files.latents import LatentDataset, check_latents

COUNT = 40


@pytest.fixture
def latents(tmp_path):
    return write_random_latents(tmp_path / "latents.parquet", MODEL, COUNT)


def rewritten(path, name, values):
    """The file with another column."""
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.schema.get_field_index(name), name, values), path, row_group_size=10)


def labelled(path, labels):
    rewritten(path, "label", pa.array(labels, pa.int64()))


def test_latents_of_the_models_classes_pass(latents):
    check_latents(latents, MODEL.latent_shape, MODEL.num_classes)
    check_latents(latents, MODEL.latent_shape, 1000)  # a part of the classes is enough
    check_latents(latents, MODEL.latent_shape, MODEL.num_classes, "0123")  # the file does not say what made it


@pytest.mark.parametrize(("bad", "count"), [(3, 1), (-1, 1), (10**12, 1), (None, 1)])
def test_labels_of_no_class_are_named(latents, bad, count):
    labelled(latents, [0] * (COUNT - 1) + [bad])
    message = "1 missing value.* in `label`" if bad is None else rf"1 of 40 labels are outside the model's classes 0-2, the first is {bad}"
    with pytest.raises(ValueError, match=f"latents.parquet: .*{message}"):
        check_latents(latents, MODEL.latent_shape, MODEL.num_classes)


def test_labels_from_1_say_how_classes_are_counted(latents):
    labelled(latents, [1 + number % 3 for number in range(COUNT)])
    with pytest.raises(ValueError, match="13 of 40 labels .* first is 3; classes are counted from 0"):
        check_latents(latents, MODEL.latent_shape, MODEL.num_classes)


def test_labels_are_integers(latents):
    rewritten(latents, "label", pa.array([0.0] * COUNT))
    with pytest.raises(ValueError, match="`label` must be an integer, it is double"):
        check_latents(latents, MODEL.latent_shape, MODEL.num_classes)


@pytest.mark.parametrize("name", ["mean", "std"])
def test_missing_latents_are_counted(latents, name):
    size = MODEL.token_channels * MODEL.num_tokens
    vectors = [None if row == 25 else [0.0] * size for row in range(COUNT)]
    rewritten(latents, name, pa.array(vectors, pa.list_(pa.float16(), size)))
    with pytest.raises(ValueError, match=f"latents.parquet: row group 2 has [0-9]+ missing .* in `{name}`"):
        check_latents(latents, MODEL.latent_shape, MODEL.num_classes)


def test_an_empty_file_is_refused(latents):
    pq.write_table(pq.read_table(latents).slice(0, 0), latents)
    with pytest.raises(ValueError, match="latents.parquet holds no latents"):
        check_latents(latents, MODEL.latent_shape, MODEL.num_classes)


@pytest.mark.parametrize(("name", "value"), [("mean", np.nan), ("mean", np.inf), ("std", np.nan), ("std", -1.0)])
def test_numbers_that_cannot_be_latents_are_refused_when_they_are_read(latents, name, value):
    size = MODEL.token_channels * MODEL.num_tokens
    values = np.ones((COUNT, size), np.float16)
    values[25, 3] = value
    rewritten(latents, name, pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), size))
    with pytest.raises(ValueError, match=f"latents.parquet: row group 2 has numbers in `{name}` that are not finite"):
        LatentDataset(latents, MODEL.latent_shape)


def test_latents_of_another_autoencoder_are_refused(latents):
    pq.write_table(pq.read_table(latents).replace_schema_metadata({CODEC: b"0123"}), latents)
    check_latents(latents, MODEL.latent_shape, MODEL.num_classes, "0123")
    check_latents(latents, MODEL.latent_shape, MODEL.num_classes)
    with pytest.raises(ValueError, match="another autoencoder .its codec is 0123, that of --vae 4567"):
        check_latents(latents, MODEL.latent_shape, MODEL.num_classes, "4567")


def test_latents_tell_how_they_were_made(latents):
    """Shape and, when the autoencoder is another, its normaliser; the same number of values is not enough."""
    assert MODEL.latent_shape == (4, 4, 4)
    for shape in ((4, 4, 4), (16, 2, 2)):
        encoding = Encoding(shape, 16, 3, (0.0, 0.1, 0.2, 0.3), (0.2325,))
        table = pq.read_table(latents).replace_schema_metadata({CODEC: b"0123", ENCODING: encoding.json()})
        assert Encoding.of(table.schema) == encoding
        pq.write_table(table, latents)
        made = r"its codec is 0123 \(16 x 16 RGB pixels, shift 0, 0.1, 0.2, 0.3, scale 0.2325\), that of --vae 4567"
        with pytest.raises(ValueError, match=made):
            check_latents(latents, MODEL.latent_shape, MODEL.num_classes, "4567")
        if shape == MODEL.latent_shape:
            check_latents(latents, MODEL.latent_shape, MODEL.num_classes, "0123")
    with pytest.raises(ValueError, match=r"holds latents of \(16, 2, 2\), this model needs \(4, 4, 4\): encode anew, in its size"):
        check_latents(latents, MODEL.latent_shape, MODEL.num_classes, "0123")
