"""Pages with players, read by the real yt-dlp."""

from __future__ import annotations

import io
import os
import time
from concurrent.futures import ThreadPoolExecutor

import av
import pytest
from sync_loop import sync_source

from triforce.ingest import storage
from triforce.ingest.config import Settings, YoutubeSource
from triforce.ingest.corpus.records import RejectReason, Status, make_recording_id
from triforce.ingest.errors import Rejected
from triforce.ingest.sources import youtube
from triforce.ingest.sources.youtube_options import ytdlp_options
from triforce.ingest.sync import discover, fetch


def page(title: str, *media: str, tracks: str = "") -> str:
    players = "".join(f'<video><source src="{path}" type="video/webm">{tracks}</video>' for path in media)
    return f"<html><head><title>{title}</title></head><body>{players}</body></html>"


def lectures(*urls: str, **options) -> YoutubeSource:
    return YoutubeSource(name="lectures", urls=urls, sleep_s=0, **options)


def test_captions_are_stored_beside(site, corpus, settings, webm):
    site.put("/v.webm", webm, "video/webm")
    site.put("/en.vtt", "WEBVTT\n\n00:00.000 --> 00:01.000\nhello", "text/vtt")
    track = '<track kind="subtitles" srclang="en" src="/en.vtt">'
    url = site.put("/watch/1", page("Talk", "/v.webm", tracks=track), "text/html")
    sync_source(lectures(url), settings, corpus)
    [row] = corpus.recordings()
    assert (row.status, row.metadata["transcript_language"]) == (Status.FETCHED, "en")
    assert b"hello" in storage.read_bytes(storage.join(corpus.uri, row.metadata["transcript_path"]))


def test_a_page_with_several_players_and_a_list_of_pages(site, corpus, settings, webm):
    site.put("/a.webm", webm, "video/webm")
    site.put("/b.webm", webm[:-1], "video/webm")
    many = site.put("/many", page("Both", "/a.webm", "/b.webm"), "text/html")
    found = list(discover(lectures(many), settings, corpus))
    assert [item.url for item in found] == [f"{site.base_url}/a.webm", f"{site.base_url}/b.webm"]
    assert len({item.recording_id for item in found}) == 2
    links = "".join(f"<item><title>{n}</title><link>{site.base_url}/watch/{n}</link></item>" for n in range(3))
    rss = f'<?xml version="1.0"?><rss version="2.0"><channel><title>All</title>{links}</channel></rss>'
    found = list(discover(lectures(site.put("/list.rss", rss, "application/rss+xml")), settings, corpus))
    assert [item.page_url for item in found if "watch" in item.url] == [f"{site.base_url}/watch/{n}" for n in range(3)]


@pytest.mark.parametrize(
    ("status", "reason"),
    [(429, RejectReason.BLOCKED), (404, RejectReason.NOT_FOUND), (403, RejectReason.FORBIDDEN)],
)
def test_a_block_stops_the_source(site, corpus, settings, status, reason):
    urls = [site.put(f"/watch/{n}", "no", "text/html", status=status) for n in range(3)]
    summary = sync_source(lectures(*urls), settings, corpus)
    assert summary.discovered == 0
    assert summary.problems[0].split(":")[0] == reason
    assert summary.blocked is (reason == RejectReason.BLOCKED)
    if reason == RejectReason.BLOCKED:
        assert [site.hits[f"/watch/{n}"] for n in range(3)] == [1, 0, 0]


def test_a_page_without_a_player_is_no_audio(site, corpus, settings):
    summary = sync_source(lectures(site.put("/x", "<html>words</html>", "text/html")), settings, corpus)
    assert summary.problems[0].startswith("not_audio")


def test_too_large_a_video_is_named(site, corpus, settings, webm):
    site.put("/v.webm", webm, "video/webm")
    url = site.put("/watch/1", page("Talk", "/v.webm"), "text/html")
    small = settings.model_copy(update={"max_bytes": 1000})
    assert sync_source(lectures(url), small, corpus).rejected == {RejectReason.TOO_LARGE: 1}


@pytest.mark.parametrize(
    "target", ["http://127.0.0.2:1/", "http://169.254.169.254/", "ftp://127.0.0.1/x", "file:///etc/passwd"]
)
def test_a_redirect_into_a_private_network_is_refused(site, corpus, settings, monkeypatch, target):
    from triforce.ingest.fetch import addresses

    is_public = addresses.is_public
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1" or is_public(address))
    strict = settings.model_copy(update={"allow_private_hosts": False})
    url = site.put("/w", script=lambda handler, _: (handler.answer(302, b"", {"Location": target}), True)[1])
    with pytest.raises(Rejected) as caught:
        list(discover(lectures(url), strict, corpus))
    assert caught.value.reason != RejectReason.NETWORK or target.startswith("f")
    if "169" in target or "0.0.2" in target:
        assert caught.value.reason == RejectReason.PRIVATE_ADDRESS


@pytest.mark.parametrize(
    ("info", "options", "reason"),
    [
        ({"is_live": True}, {}, RejectReason.NETWORK),
        ({"live_status": "is_upcoming"}, {}, RejectReason.NETWORK),
        ({"duration": 90_000, "filesize_approx": 900_000_000}, {}, RejectReason.TOO_LONG),
        ({"duration": 90_000_000, "filesize": 900_000}, {}, None),  # milliseconds
        ({"duration": 90_000}, {}, None),
        ({"duration": 50}, {"min_duration_s": 60}, None),
        ({"upload_date": "20200101"}, {"published_after": "2021-01-01"}, RejectReason.FILTERED),
        ({"license": "Standard"}, {"licences": ["creative commons"]}, RejectReason.FILTERED),
        ({"license": "Creative Commons Attribution"}, {"licences": ["creative commons"]}, None),
        ({"upload_date": "20220101", "duration": 60}, {"published_after": "2021-01-01"}, None),
        ({"upload_date": "20220101"}, {"published_before": "2022-01-01"}, RejectReason.FILTERED),
        ({"upload_date": "20211231"}, {"published_before": "2022-01-01"}, None),
    ],
)
def test_filters(info, options, reason):
    source = YoutubeSource(name="x", urls=["https://www.youtube.com/@x"], **options)
    settings = Settings(contact="a@b.org")
    if reason is None:
        youtube.check_video(info, source, settings, "u")
        return
    with pytest.raises(Rejected) as caught:
        youtube.check_video(info, source, settings, "u")
    assert caught.value.reason == reason


def test_politeness_is_derived_from_the_site():
    settings = Settings(contact="a@b.org")
    channel = YoutubeSource(name="x", urls=["https://www.youtube.com/@x"])
    assert ytdlp_options(channel, settings, CHANNEL)["sleep_interval"] == 5.0
    assert ytdlp_options(channel, settings, CHANNEL)["allowed_extractors"] == ["youtube.*"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("@x", True),
        ("@x/videos", True),
        ("channel/UC1/streams", True),
        ("@x/videos?sort=p", False),
        ("@x/playlists", False),
        ("@x/search?query=a", False),
        ("playlist?list=PL1", False),
    ],
)
def test_a_list_may_be_left_early_if_it_is_newest_first(path, expected):
    assert youtube.is_newest_first(f"https://www.youtube.com/{path}") is expected


CHANNEL = "https://www.youtube.com/@x"


def video(name: str) -> dict:
    return {"_type": "url", "ie_key": "Youtube", "id": name, "url": f"https://www.youtube.com/watch?v={name}"}


def listed(lists: dict[str, list[str]], known: list[str], **options) -> tuple[list[str], list[Rejected]]:
    """The videos found in a channel with these lists, as yt-dlp gives them, after ``known`` are on record."""
    source = YoutubeSource(name="x", urls=[CHANNEL], **options)
    problems: list[Rejected] = []

    def read(url: str) -> dict:
        if url.endswith("broken"):
            raise Rejected(RejectReason.NETWORK, "no answer")
        return {"_type": "playlist", "webpage_url": url, "entries": iter([video(name) for name in lists[url]])}

    tabs = [{"_type": "url", "ie_key": "YoutubeTab", "url": url} for url in lists]
    walk = youtube.Walk(source, CHANNEL, read, {make_recording_id("x", f"youtube:{n}") for n in known}, problems.append)
    found = walk.recordings({"_type": "playlist", "webpage_url": CHANNEL, "entries": tabs}, CHANNEL)
    return [item.source_id.removeprefix("youtube:") for item in found if item.recording_id not in walk.known], problems


OLD = [f"old{n}" for n in range(70)]


def test_a_new_video_is_found_in_the_next_tab_behind_one_of_known_ones():
    tabs = {f"{CHANNEL}/videos": OLD, f"{CHANNEL}/streams": ["new", *OLD]}
    assert listed(tabs, OLD) == (["new"], [])


def test_each_list_is_left_by_its_own_rule():
    playlist = "https://www.youtube.com/playlist?list=PL1"
    lists = {f"{CHANNEL}/videos": [*OLD, "too late"], playlist: [*OLD, "at the end"], f"{CHANNEL}/shorts": ["short"]}
    assert listed(lists, OLD) == (["at the end", "short"], [])
    assert listed(lists, OLD, max_listed=5) == (["short"], [])


def test_a_tab_that_cannot_be_read_stops_no_other():
    found, [problem] = listed({f"{CHANNEL}/broken": [], f"{CHANNEL}/shorts": ["short"]}, [])
    assert (found, problem.reason) == (["short"], RejectReason.NETWORK)


@pytest.fixture
def segments(site, sound) -> list[str]:
    """Addresses of the six segments of an HLS stream: four seconds of AAC in an MPEG transport stream."""
    output = io.BytesIO()
    with av.open(io.BytesIO(sound(98, 4.0, "WAV"))) as source, av.open(output, "w", format="mpegts") as target:
        stream = target.add_stream("aac", rate=16_000, layout="mono")
        for frame in source.decode(audio=0):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    body = output.getvalue()
    size = len(body) // 188 // 6 * 188
    pieces = [body[n * size : (n + 1) * size if n < 5 else None] for n in range(6)]
    return [site.put(f"/{n}.ts", piece, "video/mp2t") for n, piece in enumerate(pieces)]


def playlist(segments: list[str], extra: str = "") -> str:
    listed = "".join(f"#EXTINF:0.7,\n{segment}\n" for segment in segments)
    return f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-PLAYLIST-TYPE:VOD\n{extra}{listed}#EXT-X-ENDLIST\n"


def test_streams_are_read_without_starting_a_program(site, corpus, settings, segments, tmp_path, monkeypatch):
    """An encrypted playlist is what yt-dlp would hand to ffmpeg, were one to be found."""
    trace, ffmpeg = tmp_path / "started", tmp_path / "bin" / "ffmpeg"
    ffmpeg.parent.mkdir()
    ffmpeg.write_text(f"#!/bin/sh\necho \"$@\" >> '{trace}'\necho ffmpeg version 7.0\n")
    ffmpeg.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ffmpeg.parent}:{os.environ['PATH']}")
    site.put("/key", bytes(16))
    site.put("/plain.m3u8", playlist(segments), "application/x-mpegURL")
    locked = playlist(segments, '#EXT-X-KEY:METHOD=AES-128,URI="/key"\n')
    site.put("/locked.m3u8", locked, "application/x-mpegURL")
    for name in ("plain", "locked"):
        player = page(name, f"/{name}.m3u8").replace("video/webm", "application/x-mpegURL")
        site.put(f"/watch/{name}", player, "text/html")
    urls = [f"{site.base_url}/watch/{name}" for name in ("plain", "locked")]
    sync_source(lectures(*urls), settings, corpus)
    rows = {row.title: row for row in corpus.recordings()}
    assert (rows["plain"].status, rows["plain"].metadata["codec"]) == (Status.FETCHED, "aac")
    assert rows["plain"].media_path.endswith(".ts")
    assert float(rows["plain"].metadata["decoded_duration_s"]) == pytest.approx(4.0, abs=0.3)
    # Decrypted with a wrong key it is noise, which may or may not look like a media file's beginning.
    assert rows["locked"].status == Status.REJECTED
    assert rows["locked"].reason in (RejectReason.UNDECODABLE, RejectReason.NOT_AUDIO)
    assert not trace.exists() or "http" not in trace.read_text(), "only its version may be asked for"


def test_all_threads_keep_the_pace_of_a_host(site, corpus, settings, webm):
    """yt-dlp's own sleeping holds for one video; a flow fetches several at a time."""
    site.put("/v.webm", webm, "video/webm")
    urls = [site.put(f"/watch/{n}", page("Talk", f"/v.webm?{n}"), "text/html") for n in range(4)]
    source = lectures(*urls)
    found = list(discover(source, settings, corpus))
    site.forget()
    paced = settings.model_copy(update={"requests_per_s": 8.0})
    begin_s = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda item: fetch(item, source, paced, corpus), found))
    assert len(site.requests) >= 8
    assert time.monotonic() - begin_s >= (len(site.requests) - 1) / 8.0


def test_cookies_are_sent_and_their_file_stays_as_it_is(site, corpus, settings, webm, tmp_path):
    cookies = tmp_path / "cookies.txt"
    text = "# Netscape HTTP Cookie File\n127.0.0.1\tFALSE\t/\tFALSE\t0\tseat\tfront\n"
    cookies.write_text(text)

    def door(handler, _) -> bool:
        if "seat=front" in handler.headers.get("Cookie", ""):
            return False
        handler.answer(403, b"")
        return True

    site.put("/v.webm", webm, "video/webm", script=door)
    url = site.put("/watch/1", page("Talk", "/v.webm"), "text/html", script=door)
    assert sync_source(lectures(url), settings, corpus).problems[0].startswith("forbidden")
    assert sync_source(lectures(url, cookies_file=str(cookies)), settings, corpus).fetched == 1
    assert cookies.read_text() == text


def test_human_captions_are_chosen():
    tracks = {"de": [{"ext": "vtt", "url": "d"}], "en-GB": [{"ext": "srt", "url": "s"}, {"ext": "vtt", "url": "v"}]}
    info = {
        "subtitles": tracks | {"live_chat": [{"ext": "json", "url": "c"}]},
        "automatic_captions": {"fr": [{"url": "a"}]},
    }
    assert youtube.captions_of(info, "en")["transcript_url"] == "v"
    assert youtube.captions_of(info, "de")["transcript_language"] == "de"
    assert youtube.captions_of(info, "fr") == {}
    assert youtube.captions_of({}, None) == {}
