"""Who is let in: this machine's own page, or whoever has the token."""

import pytest

from comfyui_unclip.workflows.commands.edit import _check_access
from comfyui_unclip.workflows.server.guard import is_loopback

TOKEN = "0123456789abcdefXYZ"
PATHS = ["/", "/api/object_info", "/ws", "/view?filename=x.png", "/assets/a.js", "/extensions/unclip-edit/welcome.js"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.nip.io", "169.254.169.254", "", "[x"])
def test_other_names_for_this_machine_are_refused(ask, host):
    async def scenario(client):
        for path in PATHS:
            async with client.get(path, headers={"Host": host}) as response:
                assert response.status in (400, 403)  # 400: aiohttp itself refuses what is no host
                assert "<title>" not in await response.text()
        async with client.post("/api/prompt", json={"prompt": {}}, headers={"Host": host}) as response:
            assert response.status in (400, 403)

    ask(scenario)


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost", "LOCALHOST:8189", "[::1]:99", "127.8.9.1"])
def test_this_machines_names_are_let_in(ask, host):
    async def scenario(client):
        async with client.get("/", headers={"Host": host, "Origin": f"http://{host}".lower()}) as response:
            assert response.status == 200 and "the page" in await response.text()

    ask(scenario)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "http://localhost:{port}", "http://[", "file://"]
)
def test_other_sites_pages_are_refused(ask, origin):
    async def scenario(client):
        headers = {"Origin": origin.format(port=client.port), "Host": f"127.0.0.1:{client.port}"}
        for path in ("/api/interrupt", "/api/prompt", "/upload/image", "/userdata/x.json", "/settings"):
            async with client.post(path, data=b"{}", headers=headers) as response:
                assert response.status == 403
        async with client.get("/ws", headers={**headers, "Upgrade": "websocket"}) as response:
            assert response.status == 403

    ask(scenario)


def test_what_browsers_say_of_themselves_counts(ask):
    """A picture or a script tag sends no Origin, but the browser says where it stands."""

    async def scenario(client):
        for site in ("cross-site", "same-site"):
            link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
            tag = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
            assert (await client.get("/", headers=link)).status == 200
            assert (await client.get("/view?filename=x.png", headers=link)).status == 403
            assert (await client.get("/view?filename=x.png", headers=tag)).status == 403
            assert (await client.get("/", headers=tag)).status == 403
        assert (await client.get("/api/queue", headers={"Sec-Fetch-Site": "same-origin"})).status == 200

    ask(scenario)


def test_beyond_this_machine_the_token_decides(ask):
    async def scenario(client):
        host = {"Host": "studio.example:8189"}
        for path in (*PATHS, "/?token=wrong", "/api/object_info?token=" + TOKEN):
            async with client.get(path, headers=host) as response:
                assert response.status == 401 and TOKEN not in await response.text()
        assert (await client.post("/api/prompt", json={"prompt": {}}, headers=host)).status == 401
        assert (await client.get("/api/queue", headers={**host, "Authorization": "Bearer x"})).status == 401
        async with client.get(f"/?token={TOKEN}", headers=host, allow_redirects=False) as entered:
            assert entered.status == 303 and entered.headers["Location"] == "/"
            cookie = entered.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and TOKEN not in cookie
        badge = {**host, "Cookie": cookie.split(";")[0]}
        assert (await client.get("/", headers=badge)).status == 200
        assert (await client.get("/api/queue", headers={**host, "Authorization": f"Bearer {TOKEN}"})).status == 200
        foreign = {**badge, "Origin": "http://evil.example"}
        assert (await client.post("/api/interrupt", headers=foreign)).status == 403

    ask(scenario, listen="0.0.0.0", token=TOKEN)


def test_every_answer_keeps_the_page_to_itself(ask):
    async def scenario(client):
        for path in ("/", "/api/queue", "/nothing", "/assets/a.js"):
            async with client.get(path) as response:
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert response.headers["X-Frame-Options"] == "SAMEORIGIN"
                assert "default-src 'self'" in response.headers["Content-Security-Policy"]
                assert "Access-Control-Allow-Origin" not in response.headers
                if path == "/assets/a.js":
                    assert response.content_type == "text/javascript"
        async with client.get("/api/queue", headers={"Host": "evil.example"}) as refused:
            assert refused.headers["X-Content-Type-Options"] == "nosniff"

    ask(scenario)


@pytest.mark.parametrize(
    ("addresses", "alone"),
    [
        (["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost"], True),
        (["0.0.0.0", "::", "192.168.1.5", "example.org", ""], False),
    ],
)
def test_loopback(addresses, alone):
    assert [is_loopback(address) for address in addresses] == [alone] * len(addresses)


@pytest.mark.parametrize(
    ("listen", "token", "fine"),
    [
        ("127.0.0.1", None, True),
        ("127.0.0.1", TOKEN, True),
        ("0.0.0.0", TOKEN, True),
        ("0.0.0.0", None, False),
        ("0.0.0.0", "short", False),
        ("127.0.0.1", "", False),
        ("0.0.0.0", "with space and & more", False),
    ],
)
def test_the_command_wants_a_token_that_cannot_be_guessed(listen, token, fine):
    if fine:
        _check_access(listen, token, is_loopback(listen))
    else:
        with pytest.raises(ValueError, match="--token"):
            _check_access(listen, token, is_loopback(listen))
