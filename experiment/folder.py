"""A run's folder: begun once with its settings, and gone on with only by what they say."""

import hashlib
import json
import os

from util.files import UserError, write_text

PATHS = (
    "data",
    "model_path",
)  # settings which are paths; what is there is compared by content elsewhere


def same_path(path, other):
    """Do two settings mean one file or folder? A path that is no longer there, a moved project's, is nothing else than the other."""
    both = isinstance(path, str) and isinstance(other, str)
    return both and (not os.path.exists(path) or os.path.realpath(path) == os.path.realpath(other))


def differences(begun, wanted, prefix=""):
    """(key, value, other value) where two nested dicts of settings differ; None stands for a key that is missing. However a path is
    written, it is the same."""
    for key in sorted({*begun, *wanted}):
        was, now = begun.get(key), wanted.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            yield from differences(was, now, f"{prefix}{key}.")
        elif was != now and not (key in PATHS and same_path(was, now)):
            yield f"{prefix}{key}", was, now


def filled(begun, defaults):
    """Nested settings, and where a key is missing its default: a run begun before there was such a key goes on."""
    both = lambda key: isinstance(begun.get(key), dict) and isinstance(defaults[key], dict)
    return {
        **defaults,
        **begun,
        **{key: filled(begun[key], defaults[key]) for key in defaults if both(key)},
    }


def checkpoint_digest(path):
    """A checkpoint's content as a short text: a run cannot go on with another one."""
    digest = hashlib.blake2b(digest_size=8)
    with open(path, "rb") as f:
        while block := f.read(1 << 24):
            digest.update(block)
    return digest.hexdigest()


def open_run(directory, settings, chosen, defaults):
    """Make the run's folder, or find it begun with the same settings (they stand in its settings.json). chosen: further settings, which may
    differ from those it was begun with. defaults: of keys of the settings, nested like them, see `filled`. Returns the run's `chosen`.

    Raises UserError where the folder holds something else, names the first setting that differs, or says why it cannot be
    made.
    """
    path = os.path.join(directory, "settings.json")
    wanted = json.loads(
        json.dumps({**settings, **chosen})
    )  # tuples become lists, as they do in the file
    try:
        if not os.path.exists(path):
            # Hidden: what another rank or job is writing at this moment; it may be done with it by now.
            others = os.listdir(directory) if os.path.isdir(directory) else []
            if any(not name.startswith(".") and name != "settings.json" for name in others):
                raise UserError(
                    f"{directory}: is there already and is no run of this program; choose another --name NAME"
                )
            write_text(path, json.dumps(wanted, indent=1))
        with open(path, encoding="utf-8") as f:
            begun = json.load(f)
    except OSError as error:
        raise UserError(
            f"{directory}: cannot be written ({error.strerror}); choose another --logdir"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: cannot be read ({error}); choose another --name NAME") from error
    if not isinstance(begun, dict):
        raise UserError(f"{path}: does not hold a run's settings; choose another --name NAME")
    begun = filled(begun, json.loads(json.dumps(defaults)))
    kept = {key: begun.pop(key, value) for key, value in chosen.items()}
    for key, was, now in differences(
        begun, {key: value for key, value in wanted.items() if key not in chosen}
    ):
        raise UserError(
            f"{directory}: was begun with {key} {was}, now it is {now}; go on with the former or choose another --name NAME"
        )
    return kept
