"use strict";
// The page says everything without this; it adds the filter, the picture's words, and details that open in time.
(() => {
  const wanted = document.getElementById("wanted");
  const items = [...document.querySelectorAll("li[data-words]")];
  const groups = [...document.querySelectorAll("details.group")];
  const before = new Map(groups.map((group) => [group, group.open]));

  const filter = () => {
    const words = wanted.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const item of items) {
      const text = item.dataset.words.toLowerCase();
      item.hidden = !words.every((word) => text.includes(word));
      shown += item.hidden ? 0 : 1;
    }
    for (const box of document.querySelectorAll(".subject, details.group")) {
      box.hidden = !box.querySelector("li:not([hidden])");
    }
    for (const group of groups) group.open = words.length ? true : before.get(group);
    document.getElementById("count").textContent = words.length ? `${shown} of ${items.length}` : "";
  };

  if (wanted) {
    document.getElementById("filter").hidden = false;
    wanted.addEventListener("input", filter);
    document.addEventListener("keydown", (event) => {
      if (event.target === wanted && event.key === "Escape") {
        wanted.value = "";
        filter();
      } else if (event.key === "/" && event.target !== wanted && !event.ctrlKey && !event.metaKey) {
        event.preventDefault();
        wanted.focus();
      }
    });
  }

  // The picture: what is pointed at, or reached by Tab and the arrow keys, is said below it.
  const told = document.getElementById("told");
  let on = null;
  const show = (item) => {
    on?.classList.remove("on");
    on = item;
    on.classList.add("on");
    told.hidden = false;
    told.textContent = item.querySelector("title").textContent;
  };
  for (const row of document.querySelectorAll(".plot .row")) {
    const parts = [...row.querySelectorAll(".item")].sort(
      (one, other) => one.getBoundingClientRect().left - other.getBoundingClientRect().left);
    for (const part of parts) part.addEventListener("pointerenter", () => show(part));
    row.addEventListener("focus", () => parts.length && !parts.includes(on) && show(parts[0]));
    row.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || !parts.length) return;
      event.preventDefault();
      show(parts[Math.min(Math.max(parts.indexOf(on) + step, 0), parts.length - 1)]);
    });
  }

  // A link to something folded opens it; paper has nothing to unfold.
  const open = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target && target.matches("details")) target.open = true;
  };
  addEventListener("hashchange", open);
  open();
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
})();
