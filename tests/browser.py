"Where the browser is that the pages are looked at with. Run by itself: 0 if there is one."
import os, shutil, sys

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')


def find_browser():
    "Path of a Chromium, or None: the one in BRAINRECON_BROWSER, else the first on the path."
    named = os.environ.get('BRAINRECON_BROWSER')
    return named if named and os.path.exists(named) else next((p for p in map(shutil.which, NAMES) if p), None)


if __name__ == '__main__': sys.exit(0 if find_browser() else 1)
