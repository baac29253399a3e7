"""A headless browser, where there is one. ADAPTERSTATE_BROWSER=required makes its absence an error, so that CI cannot lose it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .browser import Browser

FLAGS = (
    "--headless",
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,1000",
)


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium as Debian packages it: ``apt install chromium chromium-driver``."""
    found, program = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service
    except ImportError:
        found = None
    if found is None or program is None:
        if os.environ.get("ADAPTERSTATE_BROWSER") == "required":
            pytest.fail("chromium, chromedriver and selenium are required here")
        pytest.skip("needs chromium, chromedriver and selenium")
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(program))
    yield browser
    browser.quit()


@pytest.fixture
def browser(driver: Any, tmp_path: Path) -> Iterator[Browser]:
    """The browser with no page yet; nothing that a script complains about may be left behind."""
    shown = Browser(driver, tmp_path / "page.html")
    yield shown
    shown.scheme("light")
    assert driver.get_log("browser") == []
