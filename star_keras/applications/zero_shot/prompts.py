"""Classes described by texts."""

import numpy as np
from keras import ops

from star_keras.exceptions import NonFiniteError, ShapeError

TEMPLATES = ("a photo of a {}.",)


def class_embeddings(encode_texts, class_names, templates=TEMPLATES):
    """What classes look like by their prompts: `normalize(mean_t normalize(encode(template_t(name))))`.

    Args:
        encode_texts: function of a list of strings that returns embeddings `(texts, units)`. It is called
            once for each class, with its prompts.
        class_names: list of distinct names.
        templates: list of distinct prompts in which `{}` stands for the name. Defaults to
            "a photo of a {}.".

    Returns:
        A float32 array `(classes, units)` of rows of length one.

    Raises:
        ValueError: if there are no names or templates, some come twice, or a template lacks `{}`.
        ShapeError: if `encode_texts` does not return one vector for each text.
        NonFiniteError: if embeddings are NaN, infinite or zero.

    Example:

    >>> encode = lambda texts: [[len(text), text.count("f")] for text in texts]
    >>> class_embeddings(encode, ["church", "golf"], ["a {}", "the {}"]).round(3)
    array([[1.   , 0.   ],
           [0.99 , 0.144]], dtype=float32)
    """
    names, templates = distinct("class_names", class_names), distinct("templates", templates)
    lacking = [template for template in templates if "{}" not in template]
    if lacking:
        raise ValueError(
            "Each of `templates` must have `{}` where the name of the class goes, as 'a photo of a {}.'. "
            f"Received: {lacking[0]!r}"
        )
    rows = []
    for name in names:
        prompts = [template.replace("{}", name) for template in templates]
        found = np.asarray(ops.convert_to_numpy(encode_texts(prompts)), "float64")
        if found.ndim != 2 or len(found) != len(prompts):
            raise ShapeError(
                "`encode_texts` must return one vector for each text, an array (texts, units). Received: "
                f"shape {found.shape} for {len(prompts)} texts"
            )
        rows.append(_unit_rows(_unit_rows(found, name).mean(axis=0, keepdims=True), name))
    return np.concatenate(rows).astype("float32")


def distinct(argument, values):
    """The values as a list; ValueError unless they are strings that differ, and at least one."""
    values = [values] if isinstance(values, str) else list(values)
    if not values or not all(isinstance(value, str) and value.strip() for value in values):
        raise ValueError(f"`{argument}` must be one string or more. Received: {argument}={values!r}")
    if len(set(values)) < len(values):
        twice = next(value for value in values if values.count(value) > 1)
        raise ValueError(f"`{argument}` must be distinct. Received: {twice!r} more than once")
    return values


def _unit_rows(rows, name):
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    broken = ~(np.isfinite(lengths) & (lengths > 0))
    if broken.any():
        raise NonFiniteError(
            f"Embeddings of texts must be finite and not zero. Received: a vector of length "
            f"{lengths[broken][0]} for the class {name!r}. Look at the weights of the text encoder."
        )
    return rows / lengths
