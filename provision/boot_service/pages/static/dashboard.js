// Keeps the page honest: times go on while the service is heard, stop when it is not, and the page says so.
"use strict";
(() => {
  const body = document.body;
  if (!("watched" in body.dataset)) return;
  const ahead = Number(body.dataset.now) - Date.now() / 1000;
  const now = () => Date.now() / 1000 + ahead;
  const link = document.getElementById("link");
  const news = document.getElementById("news");
  const TOLD = new Set(["dhcp", "answer", "installed", "first-boot", "registered", "failed", "refused", "action", "permit", "permit-revoked", "permit-expired", "run"]);
  let heard = now();
  let lost = false;
  let newest = 0;

  const duration = (seconds) => {
    const whole = Math.max(Math.floor(seconds), 0);
    const two = (number) => String(number).padStart(2, "0");
    const minutes = Math.floor(whole / 60);
    const hours = Math.floor(minutes / 60);
    if (whole < 60) return `${whole} s`;
    if (whole < 600) return `${minutes}:${two(whole % 60)} min`;
    if (hours < 1) return `${minutes} min`;
    return hours < 48 ? `${hours}:${two(minutes % 60)} h` : `${Math.floor(hours / 24)} days`;
  };
  const clock = (moment) => new Date(moment * 1000).toISOString().slice(11, 19);
  const set = (element, text) => { if (element.textContent !== text) element.textContent = text; };

  const show = () => {
    const text = link.querySelector(".text");
    link.classList.toggle("lost", lost);
    body.classList.toggle("lost", lost);
    set(link.querySelector(".sign"), lost ? "✗" : "●");
    // A screen reader is told once that the connection is lost, not every second.
    link.setAttribute("aria-live", lost && text.textContent.startsWith("not connected") ? "off" : "polite");
    set(text, lost ? `not connected for ${duration(now() - heard)}; as of ${clock(heard)} UTC` : "live");
  };
  const hear = () => {
    const back = lost;
    heard = now();
    lost = false;
    show();
    if (back) htmx.trigger("#live", "refresh");
  };
  const lose = () => {
    lost = true;
    show();
  };
  const tick = () => {
    if (!lost) {
      for (const each of document.querySelectorAll("time[data-since]")) set(each, duration(now() - each.dataset.since));
      for (const each of document.querySelectorAll("progress[data-since]")) each.value = now() - each.dataset.since;
    }
    show();
  };
  const again = () => {
    const live = document.getElementById("live");
    const wait = Number(live && live.dataset.again);
    if (wait) window.setTimeout(() => htmx.trigger("#live", "refresh"), wait);
  };

  // When the service closes the stream for good, htmx opens a new one: it goes on where the last one ended.
  htmx.createEventSource = (url) => {
    const from = new URL(url, location.href);
    if (newest) from.searchParams.set("after", newest);
    const source = new EventSource(from);
    source.addEventListener("message", (message) => { newest = Number(message.lastEventId) || newest; });
    return source;
  };
  body.addEventListener("htmx:sseOpen", hear);
  body.addEventListener("htmx:sseError", lose);
  body.addEventListener("htmx:sendError", lose);
  body.addEventListener("htmx:afterRequest", (event) => {
    const status = event.detail.xhr ? event.detail.xhr.status : 0;
    if (status >= 502 && status <= 504) lose();
    else if (status && status < 400 && !lost) heard = now();
  });
  body.addEventListener("htmx:sseMessage", (event) => {
    const told = JSON.parse(event.detail.data);
    if (TOLD.has(told.kind)) set(news, told.node && !told.text.startsWith(told.node) ? `${told.node}: ${told.text}` : told.text);
  });
  body.addEventListener("htmx:afterSettle", again);
  // A page that came back from the browser's cache may show what is long past.
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  // What a reader has unfolded stays so when the page is brought up to date.
  Idiomorph.defaults.callbacks.beforeAttributeUpdated = (name) => name !== "open";
  again();
  window.setInterval(tick, 1000);
})();
