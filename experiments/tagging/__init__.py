r"""A label at every step: what does reading from both sides see that reading forward does not?

    python -m experiments.tagging                              Python source, a class for every character
    python -m experiments.tagging --compare                    LSTM and bidirectional LSTM, equally large
    python -m experiments.tagging --data scenes --layers 2     what happens at every frame of drawn scenes
    python -m experiments.tagging --data gesture_phase         phases of gestures in videos
    python -m experiments.tagging --data ud_en_ewt             parts of speech
    python -m experiments.tagging tag --run DIR < FILE
    python -m experiments.tagging evaluate --run DIR --data FILE

The first command takes eight minutes on two CPU cores and needs no network. Words are read with their
letters, so that one never seen before has a label too. Whether a shape turns is where it came from against
where it goes: the readout of one layer adds what it knows of both sides, and two layers compare them. A
file is in CoNLL-U, or holds a word and its tag a line and blank lines between sentences; it is split into
parts, and training on it ends when the validation loss no longer falls.
"""
