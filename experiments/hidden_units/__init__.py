"""What single hidden units of a trained model remember, and whether it matters to the model.

    python -m experiments.hidden_units --demo                           trains one first; four minutes
    python -m experiments.hidden_units --run out/char_lm/DATE           held-out text of its corpus
    python -m experiments.hidden_units --run DIR --beside DIR DIR       the same text, read by three models
    python -m experiments.hidden_units --run DIR --text FILE --label "vowel=[aeiou]"

DIR holds a run of char_lm, tagging, classification, translation or forecasting. A unit follows a label,
such as "in string" or "position in line", when its value tells where that holds. The best ones are chosen
on the first half of the text and judged on the second. To see whether a model of characters needs such a
unit, it is held at its mean, and the loss is compared inside the label and outside; and of some characters
it is shown what earlier ones moved their logits.
"""
