// SPDX-License-Identifier: GPL-2.0-only
// Shows a bisection as it goes on. What comes is made, and escaped, by the same templates as the page.
"use strict";
const live = document.getElementById("live");
const source = new EventSource(live.dataset.events);
source.addEventListener("view", (event) => {
  const open = [...live.querySelectorAll("details[open] > summary")].map((s) => s.textContent);
  live.innerHTML = event.data;
  for (const summary of live.querySelectorAll("details > summary")) {
    summary.parentElement.open = open.includes(summary.textContent);
  }
});
source.addEventListener("done", () => source.close());
