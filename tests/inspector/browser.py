"""What tests do with a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

READ = """
const text = (one) => one ? one.textContent : null;
const read = () => {
  const now = document.getElementById("sim-now");
  return {
    summary: text(now.querySelector("caption, .caption")),
    head: [...now.querySelectorAll("thead th")].slice(2).map((one) => [text(one.querySelector("b")), text(one.querySelector(".chip"))]),
    rows: [...now.querySelectorAll("tbody tr")].map((row) => [...row.children].map(text)),
    status: text(document.getElementById("sim-status")),
    why: [...document.querySelectorAll("#sim-why > ul > li")].map((one) => one.firstChild.textContent + [...one.childNodes].slice(1)
      .filter((part) => part.className !== "case").map(text).join("")),
    log: document.querySelectorAll("#sim-log li").length,
    refused: [...document.querySelectorAll("#sim-events .refused")].map((one) => one.dataset.event),
    offered: [...document.querySelectorAll("#sim-events button")].map((one) => one.dataset.event),
    lit: [...document.querySelectorAll("#simulator-charts .lit")].map((one) => one.id.replace("sim-", "")).sort(),
    taken: [...document.querySelectorAll("#simulator-charts .taken title")].map(text).sort(),
  };
};
"""
"""Reads the simulator off the page, as a reader does."""


class Browser:
    """A page in a browser."""

    def __init__(self, driver: Any, file: Path) -> None:
        self.driver, self._file = driver, file

    def open(self, text: str) -> None:
        """Open a page from a file."""
        self._file.write_text(text, encoding="utf-8")
        self.driver.get(self._file.as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script and return what it returns."""
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[Any]:
        """Every element of a selector."""
        found: list[Any] = self.driver.find_elements("css selector", selector)
        return found

    def one(self, selector: str) -> Any:
        """The one element of a selector."""
        (found,) = self.all(selector)
        return found

    def text(self, selector: str) -> str:
        """The text of an element, whether or not it is seen."""
        return str(self.one(selector).get_property("textContent"))

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def undo(self) -> None:
        """Press Ctrl+Z."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).key_down("\ue009").send_keys("z").key_up("\ue009").perform()

    def focused(self) -> Any:
        """What has the focus."""
        return self.driver.switch_to.active_element

    def scheme(self, name: str) -> None:
        """Prefer ``"light"`` or ``"dark"``."""
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": name}]})

    def read(self) -> Any:
        """The simulator as it is."""
        return self.run(READ + "return read();")

    def play(self, events: list[str]) -> Any:
        """Reset the simulator, click these events one after the other, and read it after each. The clicks are events of the DOM."""
        return self.run(
            READ
            + """
            document.getElementById("sim-reset").click();
            return arguments[0].map((event) => {
              [...document.querySelectorAll("#sim-events button")].find((one) => one.dataset.event === event).click();
              return read();
            });""",
            events,
        )
