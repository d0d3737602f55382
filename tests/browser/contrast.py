"""What in a page has less contrast than 4.5 to 1, as a script for the browser."""

CONTRAST = """() => {
  const light = (rgb) => rgb.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = parse(getComputedStyle(each).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const ratio = (one, other) => (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const speaks = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!speaks || !element.getClientRects().length || element.closest("script, title")) continue;
    const drawn = element instanceof SVGElement;
    let back = ground(drawn ? element.closest("section") : element);
    if (element.matches("text.label")) {
      const bar = element.parentElement.querySelector("rect.band, rect.phase");
      back = parse(getComputedStyle(bar).fill).slice(0, 3);
    }
    const style = getComputedStyle(element);
    const found = ratio(light(parse(drawn ? style.fill : style.color).slice(0, 3)), light(back));
    if (found < 4.5) poor.push(`${element.textContent.trim().slice(0, 40)}: ${found.toFixed(2)}`);
  }
  return poor;
}"""
