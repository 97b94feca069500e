"""The endpoint with a model that reads texts: the interface on the real sampler without Ray, then as users meet it."""

import base64

import openai
import pytest
from api_client import backend_of, check_refused, client_of, pixels, serving
from browsing import chromium, draw, page_at
from playwright.sync_api import expect
from servers import PATH, server
from small_dcar import write_student

from actors.serving.endpoint import card_of
from actors.serving.endpoint_config import EndpointConfig
from marval_ray.hub.layout import read_config
from marval_ray.pipeline import MarvalPipeline
from marval_ray.runs.students import student_of

PROMPT = "the cat on the mat"
LONG = "a dog " * 6 + "on the mat"
"""The recorded model reads ten tokens."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, dcar_fixture_path):
    return write_student(tmp_path_factory.mktemp("student"), dcar_fixture_path)


@pytest.fixture(scope="module")
def client(folder):
    model, config = read_config(folder), EndpointConfig(student_of(folder), threads=1, batch=2)
    with serving(config, model) as sampler, client_of(backend_of(sampler), card_of(config, model)) as client:
        yield client


def images(answer) -> list:
    assert answer.status_code == 200, answer.text
    return [pixels(base64.b64decode(entry["b64_json"])) for entry in answer.json()["data"]]


def test_a_prompt_is_drawn_as_the_pipeline_draws_it(client, folder):
    first, second = images(client.post(PATH, json={"prompt": PROMPT, "n": 2, "seed": 5}))
    pipeline = MarvalPipeline.from_pretrained(folder)
    for image, seed in ((first, 5), (second, 6)):
        drawn = pipeline(prompts=PROMPT, generator=seed, output_type="np").images[0]
        assert abs(image - 255 * drawn).max() <= 1
    for change in ({"prompt": "the dog"}, {"seed": 7}, {"steps": 2}, {"temperature": 0.5}):
        (other,) = images(client.post(PATH, json={"prompt": PROMPT, "seed": 5} | change))
        assert (other != first).any(), change


def test_a_prompt_is_refused_whose_end_the_model_would_not_read(client):
    for form in ({}, {"stream": True}):
        sentence = "prompt is too long: the model would not read its end, from 'dog a dog on the mat' on"
        check_refused(client.post(PATH, json={"prompt": LONG} | form), 400, sentence)


@pytest.mark.slow
def test_prompts_by_openai_s_client_and_on_the_page(folder, tmp_path):
    with server(tmp_path / "log", "--checkpoint", folder) as running:
        with openai.OpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0, timeout=60) as client:
            answer = client.images.generate(prompt=PROMPT, n=2, extra_body={"seed": 5})
            assert [pixels(base64.b64decode(image.b64_json)).shape for image in answer.data] == [(256, 256, 3)] * 2
            with pytest.raises(openai.BadRequestError, match="would not read its end, from 'dog a dog on the mat' on"):
                client.images.generate(prompt=LONG)
            with pytest.raises(openai.BadRequestError, match="this model has no classes"):
                client.images.generate(prompt=PROMPT, extra_body={"class": 3})
        with chromium() as browser, page_at(running.address, browser) as page:
            expect(page.locator("#model")).to_contain_text("Any prompt, 256x256 pixels")
            expect(page.get_by_role("group", name="Classes")).to_be_hidden()
            page.get_by_role("button", name="Draw").click()
            expect(page.get_by_role("status")).to_have_text("Write a prompt.")
            page.get_by_label("Prompt", exact=True).fill(LONG)
            page.keyboard.press("Enter")
            expect(page.get_by_role("status")).to_contain_text("prompt is too long")
            page.get_by_label("Prompt", exact=True).fill(PROMPT)
            page.get_by_label("Number of images").fill("2")
            page.get_by_label("Seed").fill("7")
            expect(page.locator("#curl")).to_contain_text(f'{{"prompt":"{PROMPT}","n":2,"steps":3,"temperature":1,"seed":7}}')
            draw(page)
            assert page.get_by_role("img").evaluate_all("all => all.map(i => i.alt)") == [f"{PROMPT}, seed 7", f"{PROMPT}, seed 8"]
            assert page.get_by_role("img").evaluate_all("all => all.every(i => i.naturalWidth == 256 && i.width >= 256)")
            assert page.evaluate("document.documentElement.scrollWidth") <= 375
