"""`python -m report FOLDER`: the page of a run, or of all runs below a folder (`report.page`)."""

from report import page
from report.page import write_report
from util.cli import Parser, run_script, typed_path


def main():
    parser = Parser(page.__doc__)
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        type=typed_path,
        help="a run's folder, or one with runs below it",
    )
    print(f"wrote {write_report(parser.parse_args().folder)}")


if __name__ == "__main__":
    run_script(main)
