"""How well a text speaks: what `EquizeroLM` chooses by."""

from star_keras.optional import needed


def sentiment():
    """The compound sentiment of VADER, from -1 to 1: a lexicon, quick and coarse.

    Returns:
        A function of a list of texts that returns a list of numbers.

    Raises:
        ImportError: if vaderSentiment (extra `text`) is not installed.

    Example:

    >>> good, bad = sentiment()(["they were known for great love", "they were known for murder"])
    >>> good > 0 > bad
    True

    Reference: Hutto and Gilbert, "VADER" (ICWSM 2014).
    """
    vader = needed("vaderSentiment.vaderSentiment", "Scores by sentiment need vaderSentiment", "text")
    analyzer = vader.SentimentIntensityAnalyzer()
    return lambda texts: [analyzer.polarity_scores(text)["compound"] for text in texts]


def regard(classifier="sasha/regardv3"):
    """How a text regards whom it speaks of: probability of positive minus that of negative regard.

    What the paper scores by. The classifier is fetched by the package transformers on first use.

    Args:
        classifier: name or folder of a text classifier with the labels "positive" and "negative".

    Returns:
        A function of a list of texts that returns a list of numbers.

    Raises:
        ImportError: if transformers is not installed.

    Reference: Sheng et al., "The Woman Worked as a Babysitter" (EMNLP 2019).
    """
    try:
        from transformers import pipeline
    except ImportError as error:
        raise ImportError(
            "Scores by regard need a classifier of the package transformers: pip install transformers torch. "
            'Without it, say score="sentiment".'
        ) from error
    classify = pipeline("text-classification", model=classifier, top_k=None)

    def score(texts):
        found = [{one["label"]: one["score"] for one in labels} for labels in classify(list(texts))]
        return [labels["positive"] - labels["negative"] for labels in found]

    return score


SCORES = {"sentiment": sentiment, "regard": regard}
