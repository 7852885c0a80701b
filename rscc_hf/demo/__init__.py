"""`rscc demo`: synthesise scenes, train a small MModalCC on them, score it, show it on a page."""
