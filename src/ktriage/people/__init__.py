"""From a commit to the people who should hear of it, each with the reason, and the mail to them."""
