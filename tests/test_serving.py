"""The endpoint as users meet it: jobs/serve.py, Ray Serve, OpenAI's client, a browser."""

import asyncio
import base64
import io
import json
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import grpc
import httpx
import numpy as np
import openai
import psutil
import pytest
from browsing import chromium, draw, page_at
from commands import ROOT, refuse
from PIL import Image
from playwright.sync_api import expect
from servers import PATH, Server, server, wait_until


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with server(tmp_path_factory.mktemp("server") / "log") as running:
        yield running


@pytest.fixture(scope="module")
def client(running):
    with openai.OpenAI(base_url=f"{running.address}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def pixels(b64: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(b64)))).astype(int)


def test_openai_client_gets_images(client):
    answer = client.images.generate(model="marval", prompt="a bag", n=2, size="28x28", extra_body={"seed": 1, "steps": 4})
    assert [pixels(image.b64_json).shape for image in answer.data] == [(28, 28)] * 2
    assert client.models.list().data[0].id == "marval"


def test_openai_client_streams_images_on_their_way(client):
    stream = client.images.generate(prompt="a bag", stream=True, partial_images=3, extra_body={"seed": 1, "steps": 8})
    *partial, last = list(stream)
    assert [event.type for event in partial] == ["image_generation.partial_image"] * 3
    assert [event.partial_image_index for event in partial] == [0, 1, 2]
    assert last.type == "image_generation.completed"
    whole = client.images.generate(prompt="a bag", extra_body={"seed": 1, "steps": 8}).data[0]
    assert abs(pixels(last.b64_json) - pixels(whole.b64_json)).max() <= 1


def test_openai_client_understands_the_errors(client):
    with pytest.raises(openai.BadRequestError, match="names no class of this model"):
        client.images.generate(prompt="a cat")
    with pytest.raises(openai.NotFoundError, match="model 'dall-e-3' is not served here"):
        client.images.generate(model="dall-e-3", prompt="a bag")


def test_a_client_that_goes_away_stops_its_drawings(running):
    """Two hundred images take far longer than it takes to see that they have begun."""
    body = {"class": 1, "n": 16, "steps": 64}

    async def come_and_go() -> None:
        async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=12)) as impatient:
            posts = (impatient.post(f"{running.address}{PATH}", json=body | {"stream": bool(k % 2)}) for k in range(12))
            tasks = [asyncio.create_task(post) for post in posts]
            await asyncio.to_thread(wait_until, lambda: running.state()["active"] > 32)
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert {type(result) for result in results} == {asyncio.CancelledError}

    asyncio.run(come_and_go())
    wait_until(lambda: running.state()["active"] == 0, 15)


def test_nothing_but_localhost_listens(running):
    """Neither the endpoint nor any process of the Ray that the job started, but for a port of each replica, which wants the token."""
    listening = listeners(running, "")
    assert int(running.address.rsplit(":", 1)[1]) in {address.port for address in listening} and len(listening) > 6
    elsewhere = {address for address in listening if address.ip.removeprefix("::ffff:") not in ("127.0.0.1", "::1")}
    assert elsewhere and elsewhere <= listeners(running, "ServeReplica")
    for address in elsewhere:
        with grpc.insecure_channel(f"127.0.0.1:{address.port}") as channel, pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/ray.serve.ASGIService/HandleRequest")(b"", timeout=20)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def listeners(running: Server, title: str) -> set:
    """Addresses on which the server's processes of that title listen."""
    found = set()
    for process in running.processes(title):
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            found |= {c.laddr for c in process.net_connections("tcp") if c.status == "LISTEN"}
    return found


def test_every_series_of_the_dashboard_is_there(running, client):
    client.images.generate(prompt="a bag")
    board = json.loads((ROOT / "docs/grafana.json").read_text(encoding="utf-8"))
    asked = set(re.findall(r"ray_(?:marval_)?serve_\w+", json.dumps(board["panels"])))
    assert len(asked) > 7
    wait_until(lambda: asked <= set(re.findall(r"^ray_\w+", running.metrics(), re.MULTILINE)))


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(running, browser):
    with page_at(running.address, browser) as page:
        expect(page.get_by_label("ankle boot")).to_be_attached()
        yield page


def test_the_documentation_is_whole(running, page):
    page.goto(f"{running.address}/docs")
    expect(page.get_by_text("/v1/images/generations")).to_be_visible()
    page.get_by_text("/healthz").click()
    page.get_by_role("button", name="Try it out").click()
    page.get_by_role("button", name="Execute").click()
    expect(page.get_by_text('"model_version"').first).to_be_visible()


def test_the_page_draws_chosen_classes(page):
    page.get_by_text("sneaker", exact=True).click()
    page.get_by_label("Images of each").fill("2")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Loops (N_AR)").fill("16")
    page.evaluate("new MutationObserver(all => all.forEach(one => (window.seen ??= new Set()).add(one.target.src)))"
                  ".observe(document.querySelector('#images'), {subtree: true, attributes: true, attributeFilter: ['src']})")  # fmt: skip
    page.evaluate("""() => {
        const quick = window.fetch;  // the class chosen first is answered last, and is shown first nevertheless
        const wait = options => new Promise(done => setTimeout(done, options.body.includes('"class":0') ? 500 : 0));
        window.fetch = async (path, options) => { await wait(options); return quick(path, options); };
    }""")
    draw(page)
    assert page.get_by_role("img").evaluate_all("all => all.map(i => i.alt)") == [
        "t-shirt, seed 7", "t-shirt, seed 8", "sneaker, seed 7", "sneaker, seed 8",
    ]  # fmt: skip
    assert page.get_by_role("img").evaluate_all("all => all.every(i => i.naturalWidth == 28)")
    assert page.get_by_role("img").first.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"  # they are magnified
    assert page.evaluate("window.seen.size") > 4 * 10  # loop by loop
    with page.expect_download() as download:
        page.get_by_role("link", name="Download sneaker, seed 8").click()
    assert download.value.suggested_filename == "sneaker_8.png"
    assert Image.open(download.value.path()).size == (28, 28)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_the_page_copies_the_same_as_a_curl_line(page, running):
    page.get_by_label("or a prompt").fill("the bag's strap")
    page.get_by_role("button", name="Copy").click()
    expect(page.get_by_role("status")).to_contain_text("clipboard")
    line = page.evaluate("navigator.clipboard.readText()")
    assert line.startswith(f"curl {running.address}{PATH} ") and "the bag'\\''s strap" in line


def test_the_page_works_by_keyboard_and_says_what_is_wrong(page):
    page.get_by_label("t-shirt", exact=True).focus()
    page.keyboard.press("Space")  # nothing is chosen now
    page.get_by_label("Images of each").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("Choose a class, or write a prompt.")
    page.get_by_label("or a prompt").fill("a cat")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("names no class of this model")
    expect(page.get_by_role("listitem")).to_have_count(0)
    page.get_by_label("or a prompt").fill("a coat")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("4 images in", timeout=30_000)


def test_the_page_stops(page):
    page.get_by_label("Images of each").fill("16")
    page.get_by_label("Loops").fill("64")
    page.get_by_role("button", name="Draw").click()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    expect(page.locator("#images li:not(:has(img[src]))")).to_have_count(0)


def test_wrong_options_are_refused(running, tmp_path):
    port = running.address.rsplit(":", 1)[1]
    for options, sentence in [
        (("--port", port), f"cannot listen on 127.0.0.1:{port}"), (("--checkpoint", tmp_path / "none.safetensors"), "config.json"),
        (("--steps", 65), "more than the 64 tokens"), (("--batch", 0), "batch must be more than 0"),
        (("--min-replicas", 99, "--max-replicas", 99), "do not fit"),
        (("--follow", tmp_path / "none"), "is not a folder"), (("--classes", tmp_path / "none"), "no prompt file"),
    ]:  # fmt: skip
        assert sentence in refuse("jobs/serve.py", *(options if "--port" in options else ("--port", 0, *options)))


@pytest.mark.slow
def test_the_openapi_document_holds(running, tmp_path):
    """Schemathesis: requests made from the document, right and wrong; none may end in a server error."""
    command = [
        Path(sys.executable).with_name("schemathesis"), "run", f"{running.address}/openapi.json", "--checks", "not_a_server_error",
        "--max-examples", "50", "--seed", "1", "--request-timeout", "60",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, timeout=600, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
