"""Where do gradients go on their way back through time? Vanishing and exploding, seen.

    python -m experiments.gradient_flow                    all five parts
    python -m experiments.gradient_flow --part clipping    one of them

The first command takes two minutes on two CPU cores and needs no network. It leaves five plots,
and prints what the literature says of recurrent gradients, each claim marked "shows" or "DOES NOT SHOW".

- jacobians: ‖dS_T/dS_k‖ against the lag T − k for Elman networks, with the bound (γλ)^(T−k) of Pascanu,
  Mikolov & Bengio (2013), "On the difficulty of training recurrent neural networks". γ is the largest slope
  of the activation (1/4 for the sigmoid), λ the largest singular value of W_hh. Recurrent weights are a
  multiple of an orthogonal matrix, whose λ is its spectral radius ρ, or Gaussian, where λ is about 2ρ.
- gates: the same for IRNN, GRU, and LSTMs of several forget biases; dc_T/dc_k beside the highway Π f_j.
- clipping: stochastic gradient descent on the adding problem at a learning rate at which a relu network
  explodes; without clipping, clipped by norm, and by value; the same weights and data.
- truncation: the angle between the gradient cut off after h steps and the full one.
- cost: seconds of the sum Σ_k dL/dS_T (Π_{j>k} ∂S_j/∂S_{j-1}) d†S_k/dW with every product from scratch,
  against the recursion that shares them.

All but the training runs are in float64, on fresh networks, for standard normal inputs. Losses are ⟨u, S_T⟩
or ⟨u, y_t⟩ with random u of length 1. Lines are medians over draws of weights, inputs and u, between their
least and largest. Costs are the processor's, for one sequence; slopes are of the three longest.
"""
