"""What a page of a demo loads and shows."""

import html.parser


class Page(html.parser.HTMLParser):
    """Collects what a page loads and shows."""

    def __init__(self, text: str):
        super().__init__()
        self.sources: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data):
        self.words.append(data)
