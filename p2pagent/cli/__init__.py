"""The command line: it reads arguments, calls the daemon or the settings, and prints. Nothing is decided here."""

from p2pagent.cli import ask, auction, chat, device, ledger, network, rate, sim, testnet, views
from p2pagent.cli.app import app

__all__ = ["app", "ask", "auction", "chat", "device", "ledger", "main", "network", "rate", "sim", "testnet", "views"]


def main() -> None:
    """Run `p2pagent`."""
    app(prog_name="p2pagent")
