r"""How well does an encoder-decoder with attention translate? Learned from pairs of sentences.

    python -m experiments.translation                                names of numbers, English to French
    python -m experiments.translation --data multi30k --lowercase --joint --tied all --dropout 0.4 \
        --vocabulary-size 8000 --steps 4000                          or captions, or any parallel files
    python -m experiments.translation --data A,B --valid C,D --test E,F     one's own files, or A,B split
    python -m experiments.translation translate --run DIR < FILE     a translation a line
    python -m experiments.translation evaluate --run DIR --source FILE --target FILE
    python -m experiments.translation score --run DIR --source FILE --target FILE

The first command takes two minutes on two CPU cores, needs no network, and names more than 99 % of unseen
numbers right; the second takes about twenty minutes.
"""
