"""Sets of prompts as they are published, what is none, and the folders that tools of benchmarks read."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from marval_ray.layouts import DPG, GenEval
from marval_ray.prompt_sets import PromptSet, read_set

TEXTS = ('"G I G G L E" painted on a wall', "a cat on the mat\u2028by night")
RECORDS = tuple({"tag": "colors", "include": [{"class": "cat", "count": 1}], "prompt": text} for text in TEXTS)


def write(path, content) -> None:
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_text(content, encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.txt", "\n".join((TEXTS[0], "", f" {TEXTS[1]} ", ""))),
        ("geneval.jsonl", "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in RECORDS)),
        ("style.json", json.dumps(TEXTS)),
        ("PartiPrompts.tsv", f"Category\tPrompt\tNote\nAnimals\t{TEXTS[0]}\t\n\t{TEXTS[1]} \tx\n"),
        ("pick.parquet", pa.table({"jpg_0": [b"x", b"y"], "caption": TEXTS})),
        ("both.parquet", pa.table({"caption": ["", None], "prompt": TEXTS})),
    ],
)
def test_published_forms_are_read_alike(tmp_path, name, content):
    write(tmp_path / name, content)
    found = read_set(tmp_path / name)
    assert found.texts == TEXTS and found.prompts.texts == TEXTS and found.prompts.labels is None
    assert found.records == (RECORDS if name == "geneval.jsonl" else ()) and not found.names


def test_a_folder_of_text_files_is_a_set_with_names(tmp_path):
    for name, text in (("b.txt", "the dog\n"), ("a1.txt", "a cat"), ("notes.md", "no prompt")):
        write(tmp_path / name, text)
    assert read_set(tmp_path) == PromptSet(("a cat", "the dog"), names=("a1", "b"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "prompt\na cat\n", "x.csv: prompts are a folder of .txt files, or a file that ends in .txt, .jsonl, .json"),
        ("x.txt", " \n\n", "x.txt holds no prompts"),
        ("x.jsonl", '{"prompt": "a cat"}\n\n{"prompt": \n', "x.jsonl, line 3 is not JSON"),
        ("x.jsonl", '"a cat"\n', "x.jsonl, line 1 holds 'a cat' where an object is needed"),
        ("x.jsonl", '{"caption": "a cat"}\n', 'x.jsonl, line 1, key "prompt": None is no prompt: write a text there'),
        ("x.json", '{"prompt": "a cat"}', "x.json holds {'prompt': 'a cat'} where a list of texts is needed"),
        ("x.json", '["a cat", 3]', "x.json, entry 2: 3 is no prompt"),
        ("x.json", "[]", "x.json holds no prompts"),
        ("x.tsv", "", r"x.tsv, line 1: there is no column Prompt among \[\]"),
        ("x.tsv", "Text\tCategory\na cat\tAnimals\n", r"there is no column Prompt among \['Text', 'Category'\]"),
        ("x.tsv", "Category\tPrompt\nAnimals\ta cat\nAnimals\n", "x.tsv, line 3: '' is no prompt"),
        ("x.parquet", "a cat\n", "x.parquet is not Parquet"),
        ("x.parquet", pa.table({"name": ["a cat"]}), r"x.parquet has no column prompt or caption or text; it has \['name'\]"),
        ("x.parquet", pa.table({"prompt": ["a cat", None]}), "x.parquet, row 2: None is no prompt"),
    ],
)  # fmt: skip
def test_what_is_no_set_is_named_with_its_place(tmp_path, name, content, message):
    write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message):
        read_set(tmp_path / name)


def test_places_without_prompts_are_named(tmp_path):
    with pytest.raises(ValueError, match="there is no prompt file at .*absent.txt"):
        read_set(tmp_path / "absent.txt")
    with pytest.raises(ValueError, match="holds no prompts"):
        read_set(tmp_path)


def test_geneval_s_folders_hold_images_and_the_record_as_its_tool_looks_for_them(tmp_path):
    """What evaluate_images.py opens: folders of digits, the whole of metadata.jsonl as JSON, samples/DIGITS.png."""
    layout = GenEval(PromptSet(TEXTS, RECORDS), images=3)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    for number, images in enumerate(pixels):
        assert not (tmp_path / layout.last(number)).exists()
        layout.write(tmp_path, number, images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000", "00001"]
    for number, folder in enumerate(sorted(tmp_path.iterdir())):
        assert json.loads((folder / "metadata.jsonl").read_text(encoding="ascii")) == RECORDS[number]
        assert sorted(path.name for path in (folder / "samples").iterdir()) == ["00000.png", "00001.png", "00002.png"]
        assert np.array_equal(np.asarray(Image.open(folder / "samples/00002.png")), pixels[number, 2])


def test_dpg_s_grids_are_cut_where_its_tool_cuts(tmp_path):
    """What compute_dpg_bench.py crops of a grid with RESOLUTION 8."""
    layout = DPG(PromptSet(TEXTS, names=("7", "COCOval2014000000010363")), images=4)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    layout.write(tmp_path, 1, pixels)
    (file,) = tmp_path.iterdir()
    grid = Image.open(file)
    assert file.name == "COCOval2014000000010363.png" and grid.size == (16, 16)
    for image, (left, top) in zip(pixels, ((0, 0), (8, 0), (0, 8), (8, 8)), strict=True):
        assert np.array_equal(np.asarray(grid.crop((left, top, left + 8, top + 8))), image)
