"""`python -m report FOLDER` (`report.page`)."""

from report import page
from util.cli import Parser, run_script, typed_path


def main():
    parser = Parser(page.__doc__)
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        type=typed_path,
        help="a run's folder, or a folder with several runs in it",
    )
    print(f"wrote {page.write_report(parser.parse_args().folder)}")


if __name__ == "__main__":
    run_script(main)
