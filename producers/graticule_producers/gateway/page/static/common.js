// What every page uses: asking the gateway, telling the person, actions on jobs.

const csrf = document.querySelector('meta[name="csrf"]')?.content ?? "";
const notice = document.getElementById("notice");

export function tell(text) {
  notice.textContent = text;
  notice.hidden = !text;
}

// Asks the gateway; throws an Error with a sentence for people.
export async function ask(path, options = {}) {
  const headers = { ...(options.headers ?? {}) };
  if (csrf && options.method && options.method !== "GET") headers["X-CSRF-Token"] = csrf;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The gateway does not answer. Is it still running?");
  }
  if (answer.status === 401) location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
  if (!answer.ok) {
    const problem = await answer.json().catch(() => ({}));
    throw new Error(`${problem.detail ?? answer.statusText} (error ${problem.id ?? answer.status})`);
  }
  return answer;
}

export function element(name, attributes = {}, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...content);
  return made;
}

export const percent = (fraction) => `${(fraction * 100).toFixed(2)} %`;
export const rounded = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toFixed(digits));

async function act(button) {
  button.disabled = true;
  try {
    await ask(`/api/v1/${button.dataset.kind ?? "jobs"}/${button.dataset.job}/${button.dataset.action}`, { method: "POST" });
    location.reload();
  } catch (error) {
    tell(error.message);
    button.disabled = false;
  }
}

for (const button of document.querySelectorAll("button[data-action]")) button.addEventListener("click", () => act(button));

document.getElementById("log-out")?.addEventListener("click", async () => {
  try {
    await ask("/logout", { method: "POST" });
    location.assign("/login");
  } catch (error) {
    tell(error.message);
  }
});
